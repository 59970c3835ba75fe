"""Training methods: each file reads top to bottom, its config class is the form, the options and the saved spec."""
