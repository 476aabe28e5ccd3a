"""What the pages of the book need and no algorithm knows of: figures, checks, records, a notebook's setup."""
