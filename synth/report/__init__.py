"""One run as one HTML page that needs nothing but a browser: no network, no server, no other file.

    folder.py, database.py   a run, wherever it was left, as a `view.RunView`
    replay.py                a counterexample run again, for its picture
    formula.py, tint.py, svg.py, tiles.py, charts.py, lineage.py   values to markup
    page.py, page.html.j2, page.css, page.js                       the page

Everything a run holds was written by someone who is not trusted: kernel texts, names, a model's notes. It reaches the
page through escaping only (Jinja2's, markupsafe's), and the page's content security policy names its one script and
its one style sheet by hash, so a text that got through would still not run. The same run gives the same bytes.
"""
