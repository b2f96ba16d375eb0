"""The data plane: from decoded rows to journalled answers, whatever the transport."""
