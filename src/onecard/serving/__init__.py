"""What every HTTP server here shares: guards, schemas, the shell of an app."""
