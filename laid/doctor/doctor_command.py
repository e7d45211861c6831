"""``laid doctor``: whether this machine has what a run needs, before the run."""

import sys
from collections.abc import Sequence

from jsonargparse import Namespace

from laid.common.errors import UserError
from laid.common.printable import printable
from laid.doctor.findings import Finding, report
from laid.doctor.machine_checks import machine_findings
from laid.doctor.run_checks import run_findings
from laid.settings.run_settings import SettingsParser, read_settings, settings_parser


def run(words: Sequence[str]) -> None:
    """Prints what the machine has and, with settings of ``laid fit``, what the run lacks.

    Args:
        words: the command line after ``doctor``: none, or that of ``laid fit``.

    Raises:
        UserError: a run would not start; the report says why.
    """
    parser = settings_parser("laid doctor", (__doc__ or "").splitlines()[0])
    resumed = "A checkpoint, a run's folder, or last: what is needed to resume it."
    parser.add_argument("--ckpt_path", type=str | None, default=None, help=resumed)
    given = read_settings(parser, words)
    findings = list(machine_findings())
    print(printable(report("this machine", findings)))
    if words:
        of_run = _of_run(parser, given.config)
        findings += of_run
        print("\n" + printable(report(f"the run {given.config.name}", of_run)))
    sys.stdout.flush()
    problems = [one.subject for one in findings if one.state == "problem"]
    if problems:
        raise UserError(f"{len(problems)} problem(s): {', '.join(problems)}; see above")


def _of_run(parser: SettingsParser, config: Namespace) -> list[Finding]:
    try:
        made = parser.instantiate(config)
    except UserError as reason:
        return [Finding("settings", "problem", "laid fit refuses them", str(reason))]
    return list(run_findings(config, made.model, made.data))
