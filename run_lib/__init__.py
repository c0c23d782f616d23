"""The ground floor: habits that all commands share. Knows no model."""
