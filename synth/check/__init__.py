"""Checking a certificate that somebody else made: what it says is derived again, and compared.

`subject` alone is read: the spec's text, the candidate's text and the settings. From them the installed gate makes a
certificate of its own (`derive`), the installed lowering emits its versions (`emission`), and the file has to say the
same, section by section and key by key (`difference`); whoever changed it and computed its id anew is named the place.
A second solver answers the integer queries (`queries`). Nothing of the file is ever run: what is compiled on request is
what was emitted here.
"""
