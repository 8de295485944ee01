"""How the bundled models of a world are trained: python -m migm_core.worlds.recipe --help"""
