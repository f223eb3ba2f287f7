"""BirdNET v2.4: its table, its weights out of a TFLite file, its torch definition, its classes, its range model."""
