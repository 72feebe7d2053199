"""Pictures read, results drawn and written."""
