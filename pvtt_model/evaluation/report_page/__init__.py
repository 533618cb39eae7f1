"""The parts of the report's page and of its Markdown. report_html.py and report_markdown.py put them together.

Plain data first, no HTML: headline, variants (which metric stands beside which), main_metrics, groups, worst_first, past, beside.
Then a file a section: top, matrix, group_tables, trend, cards, edit_table, downloads, behind; page.css and page.js.
"""
