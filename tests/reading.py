"""Which pictures runs of `mdrt segment` read, to see what was passed over."""

from click.testing import CliRunner

from mdrt.cli import main, pictures
from mdrt.runtime.pictures import images


def run(*arguments):
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


class Worked(list):
    """The pictures that a run read."""

    def __init__(self, monkeypatch):
        super().__init__()

        def read(path, *limits, read_image=images.read_image):
            self.append(path.name)
            return read_image(path, *limits)

        monkeypatch.setattr(pictures, "read_image", read)

    def by(self, *arguments):
        self.clear()
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        return sorted(self)
