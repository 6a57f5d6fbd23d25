"""What the HTTP servers share: app shell, guards (Host, Origin, token), OpenAI schemas."""
