"""File attachments: added here, fetched there, verified everywhere."""
