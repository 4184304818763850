"""Bad calls of every public name: what a user sees of each.

    valid          a call of each public name that works
    mutations      what is made of an argument that it may not be
    by_hand        calls whose arguments do not go together, or are wrong in their own way
    accepted       arguments that are taken though they were changed, and why that does no harm
    outcomes       what came of a call: clear, unnamed, deep or accepted

`python -m tests.bad_calls` makes all of them and prints what came of each, as JSON.
"""
