"""The drawn world: pictures whose truth is known, to train the bundled models on and to judge them and others by."""
