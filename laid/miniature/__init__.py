"""How the package's tiny models were trained from nothing; ``docs/miniature.md`` has the numbers.

``image_pool`` has the drawn images, ``tower_training`` the vision tower, ``question_sampler`` the
questions, ``haystack_layout`` their tokens, ``decoder_training`` the decoder and its curriculum,
``resumable_stage`` checkpoints of a stage, ``accuracy_check`` accuracy on laid's own test entries,
``model_cards`` the folders, ``pretrain_command`` the command.
"""
