"""Drawn worlds: pictures whose truth is known, to train the bundled models on and to judge them by. Each is a package of its own."""
