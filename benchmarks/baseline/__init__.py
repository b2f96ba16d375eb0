"""What Tidegate is measured against."""
