"""blockd: a distributed block storage engine for sovereign clouds."""
