"""The commands of `promptclip`: flags on top, what they call below; heavy imports when called.

Each module has `add_to(commands)`, which adds its command to the parser. A command gives the exit
status.
"""
