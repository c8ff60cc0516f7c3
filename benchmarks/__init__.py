"""Benchmarks: one program per question of speed; each prints its numbers and what they were measured on."""
