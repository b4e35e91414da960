"""Transfer learning by notebook: a course, a library and a template. Submodules load only when imported."""
__version__ = "0.1.0"
