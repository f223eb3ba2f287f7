"""Turn a published Perch v2 file and trained heads into a bundle."""
