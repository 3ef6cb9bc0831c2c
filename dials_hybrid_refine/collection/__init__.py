"""Many finished refinements compared; knows neither files nor pages."""
