"""``--trainer.strategy laid_fsdp``: student, teacher and mixing weights sharded across all ranks.

Lightning's strategy for FSDP2 is ``ModelParallelStrategy``; this is that strategy with every rank
of every node in one data-parallel group. docs/distributed.md says what it adds.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

from laid.checkpoints.sharded_checkpoints import load_sharded, save_sharded
from laid.common.errors import UserError
from laid.common.stopping import Stopped
from laid.distributed.rank_watchdog import RankWatchdog
from laid.training.placement import Placement

NAME = "laid_fsdp"


class ShardedPrecision(Precision):
    """bf16-mixed for sharded models: FSDP2 gathers parameters in bfloat16, in place of autocast.

    What is outside of a model, the losses and mixing weights, computes in float32.
    """

    precision = "bf16-mixed"


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks of all nodes, on GPUs (NCCL) or on the CPU (gloo)."""

    strategy_name = NAME

    def __init__(self, process_group_backend: str | None = None):
        """``process_group_backend``: None: nccl on GPUs, gloo on the CPU."""
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)
        self._watchdog: RankWatchdog | None = None

    # Lightning sets the plugin after it has made the strategy from its name.
    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if isinstance(plugin, MixedPrecision):
            refuse_float16(plugin.precision)
            plugin = ShardedPrecision()
        self._precision_plugin = plugin

    @property
    def placement(self) -> Placement:
        """Where models are to be built."""
        mixed = self.precision_plugin.precision == "bf16-mixed"
        return Placement(self.device_mesh["data_parallel"], torch.bfloat16 if mixed else None)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        assert self.cluster_environment is not None
        self._watchdog = RankWatchdog(self.cluster_environment.main_address)

    def on_exception(self, exception: BaseException) -> None:
        together = isinstance(exception, Stopped) and not exception.at_once
        if self._watchdog is not None and not together:
            self._watchdog.close(f"{type(exception).__name__}: {exception}")
        super().on_exception(exception)

    def teardown(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()
        super().teardown()

    def setup(self, trainer: L.Trainer) -> None:
        # Parameters that are gathered in inference mode could not be trained with later. Lightning
        # knows that of FSDP1 and of gloo, but not of FSDP2 on GPUs.
        in_fit = trainer.fit_loop.epoch_loop.val_loop
        for loop in (in_fit, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        assert storage_options is None
        save_sharded(checkpoint, Path(self.broadcast(filepath)))

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        assert self.lightning_module is not None
        path = Path(self.broadcast(checkpoint_path))
        return load_sharded(path, self.lightning_module, self.optimizers)

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        strategy_registry.register(NAME, cls, description=cls.__doc__)


def placement_of(trainer: L.Trainer) -> Placement:
    """Where models are built under a trainer's strategy."""
    strategy = trainer.strategy
    return strategy.placement if isinstance(strategy, ShardedStrategy) else Placement()


def refuse_float16(precision: Any) -> None:
    """Refuses a precision that sharded models are not trained in.

    Raises:
        UserError: it is 16-mixed.
    """
    if str(precision) in ("16", "16-mixed"):
        raise UserError(
            f"trainer.precision {precision} with trainer.strategy {NAME}: expected bf16-mixed or "
            "32-true; float16 would need its gradients scaled"
        )


def check_precision(trainer: L.Trainer) -> None:
    """Refuses precisions under which Lightning would convert the weights.

    Raises:
        UserError: the trainer's is one of those.
    """
    if str(trainer.precision) not in ("32-true", "bf16-mixed", "16-mixed"):
        raise UserError(
            f"trainer.precision {trainer.precision}: expected 32-true, or bf16-mixed or 16-mixed "
            "to compute in low precision. How weights are held is model.student.dtype; the other "
            "settings would round them."
        )


ShardedStrategy.register_strategies(StrategyRegistry)
