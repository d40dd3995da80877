"""What a connection needs: rules for heads, an end that costs no answer, and a place."""
