"""From what was predicted to what deserves attention: profiles, drift, quality, risk, signals."""
