"""How the package's tiny models were trained from nothing; ``docs/miniature.md`` has the numbers.

``pool`` the drawn images, ``tower`` the vision tower, ``haystacks`` what is asked, ``layout`` how
it is written down, ``language`` the decoder and its curriculum, ``stages`` going on after an
interruption, ``measure`` accuracy on laid's own test entries, ``cards`` the folders, ``tiny`` the
command.
"""
