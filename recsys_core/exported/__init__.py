"""What an exported module is: look-ups, inputs, signature, parity."""
