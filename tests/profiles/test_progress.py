from lavit_deploy.profiles.progress import Progress


def test_where_there_is_no_terminal_every_step_is_a_line_once(capsys):
    with Progress() as progress:
        progress.update("counting a", 0.0)
        progress.update("counting a", 0.5)
        progress.update("timing [b]", 1.0)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["counting a", "timing [b]"]
    assert captured.out == ""


def test_on_a_terminal_a_bar_shows_the_step_and_leaves_nothing_behind(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        progress.update("counting [a]", 0.5)
    shown = capsys.readouterr().err
    assert "counting [a]" in shown
    assert "50%" in shown
    assert shown.endswith("\x1b[2K")  # the line is cleared
