"""What is to be tested: patches, a manifest, a mutant."""
