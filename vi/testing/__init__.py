"""What the tests and the users share: exact models, and checks of one's own parts."""

from vi.testing._linear_gaussian import LinearGaussian, ppca

__all__ = ["LinearGaussian", "ppca"]
