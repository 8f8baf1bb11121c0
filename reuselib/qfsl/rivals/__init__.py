"""What QFSL is compared with."""
