"""A report for people: terminal, Markdown, HTML, SVG and PNG."""
