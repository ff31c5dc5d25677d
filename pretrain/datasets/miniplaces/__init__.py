"""MiniPlaces: photographs of 100 kinds of scenes, some of them with outlined objects."""
