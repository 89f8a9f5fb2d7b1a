"""The three kinds of trouble, by what a process does about them.

BadRecord       (services.contracts)  dead-lettered with its reason; trying again would not help
PassingFault                          tried again, and shown in readiness while it lasts
everything else                       a bug: the process stops with exit code 1
"""


class PassingFault(Exception):
    """Something outside this process is not to be had for now. The text is a sentence for the readiness answer."""
