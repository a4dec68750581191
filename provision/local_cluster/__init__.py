"""A cluster on this machine, or this machine's part of one.

`start.up` makes a master and an agent side by side (or mends them), `enrolment.enrol` joins this machine to a cluster
whose master runs elsewhere, `control_plane.join` as one more master; `removal.down` removes any of it.

Nothing is imported here: each needs other libraries, and on an emulated machine every one takes seconds.
"""
