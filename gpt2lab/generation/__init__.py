"""From prompts to text: settings, requests, the batch that draws tokens, and where a text ends."""
