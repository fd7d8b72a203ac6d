"""Worlds: sources of samples with exact answers, which the engine trains on and is measured by.

    shapes/    the smallest, one file: the tutorial, the debug configs, most tests
    emoji/     what the built-in models live in

Each is a module with a callable `world`, which gives a mmada.data.world.World. The engine finds it by name (data/find_world.py) and imports
none; a world of your own lives in a package of its own (docs/worlds.md).
"""
