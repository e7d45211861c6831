"""How the package's tiny models were trained from nothing; ``docs/miniature.md`` has the results.

``image_pool`` holds the drawn images, ``tower_training`` trains the vision tower,
``question_sampler`` draws what is asked, ``haystack_layout`` writes it as tokens,
``decoder_training`` trains the decoder by a curriculum, ``resumable_stage`` keeps checkpoints and
results, ``accuracy_check`` tests on laid's own entries, ``model_cards`` writes the folders,
``pretrain_command`` is the command, ``recipes`` are its hyperparameters. ``tiny_models`` and
``packaged_models`` are configuration and tokenizer.
"""
