"""push to=hf://OWNER/NAME with the Hub's own client library, against a stand-in of its HTTP."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from folders import ROOT, uncovered

from btm.cli.main import main
from btm.errors import UserError
from btm.forest.paths import ModelFolder
from btm.interop.remote import hub
from btm.system import sums


class Repository:
    """One repository of a stand-in: the files of its last commit, and the objects it was sent."""

    def __init__(self):
        self.stands, self.sha, self.files, self.objects, self.uploads = False, "0" * 40, {}, {}, 0


def handler(repo):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, value, code=200, **headers):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self):
            if self.headers.get("Authorization") != "Bearer right":
                return self.answer({}, 401, X_Error_Message="Invalid token")
            if "/api/models/me/law" in self.path:
                if not repo.stands:
                    return self.answer({}, 404, X_Error_Code="RepoNotFound")
                names = [{"rfilename": name} for name in repo.files]
                return self.answer({"id": "me/law", "sha": repo.sha, "siblings": names})
            name = self.path.rpartition("/")[2]
            if name not in repo.files:
                return self.answer({}, 404, X_Error_Code="EntryNotFound")
            return self.answer(repo.files[name], ETag='"x"', X_Repo_Commit=repo.sha)

        do_HEAD = do_GET

        def do_PUT(self):
            repo.objects[self.path.rpartition("/")[2]] = self.body()
            repo.uploads += 1
            self.answer({})

        def do_POST(self):
            body, host = self.body(), self.headers["Host"]
            if self.path == "/api/repos/create":
                assert json.loads(body)["name"] == "law"
                repo.stands = True
                return self.answer({"url": f"http://{host}/me/law"})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                lfs = [f["path"].endswith(".safetensors") for f in files]
                modes = ["lfs" if large else "regular" for large in lfs]
                said = [
                    {"path": f["path"], "uploadMode": m, "shouldIgnore": False}
                    for f, m in zip(files, modes, strict=True)
                ]
                return self.answer({"files": said})
            if self.path.endswith("/objects/batch"):
                found = []
                for each in json.loads(body)["objects"]:
                    actions = {"upload": {"href": f"http://{host}/put/{each['oid']}"}}
                    known = each["oid"] in repo.objects
                    found.append(each if known else each | {"actions": actions})
                return self.answer({"transfer": "basic", "objects": found})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            assert "/commit/" in self.path, self.path
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit") != repo.sha:
                return self.answer({"error": "not the last commit"}, 412)
            for line in lines[1:]:
                value = line["value"]
                small = line["key"] == "file"
                repo.files[value["path"]] = (
                    base64.b64decode(value["content"]) if small else repo.objects[value["oid"]]
                )
            repo.sha = f"{int(repo.sha, 16) + 1:040x}"
            url = f"http://{host}/me/law/commit/{repo.sha}"
            self.answer({"success": True, "commitOid": repo.sha, "commitUrl": url})

    return Handler


@pytest.fixture
def stand_in():
    repo = Repository()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repo))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield repo, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def push(forest, endpoint, tmp_path, *words, token="right"):
    """By a process of its own: the library reads its variables once."""
    variables = {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf")}
    variables |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "btm.cli", "push", f"forest={forest.root}", "to=hf://me/law"]
    return subprocess.run(
        [*command, *words, "--json"], env=uncovered() | variables, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.traced
def test_a_model_becomes_a_repository(forest, stand_in, tmp_path):
    repo, endpoint = stand_in
    ran = push(forest, endpoint, tmp_path, "expert=bible", "card.license=apache-2.0")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["models"][0]["state"] == "pushed"
    weights = (forest["bible"].path / "model.safetensors").read_bytes()
    assert repo.files["model.safetensors"] == weights
    assert b'license: "apache-2.0"' in repo.files["README.md"]
    assert not [n for n in repo.files if n.endswith((".py", ".bin", ".pt", ".pkl"))]
    for name, content in repo.files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert not sums.differences(tmp_path / "got")  # a folder that transformers loads, as exported
    sha, uploads = repo.sha, repo.uploads
    ran = push(forest, endpoint, tmp_path, "expert=bible", "card.license=apache-2.0")
    assert json.loads(ran.stdout)["models"][0]["state"] == "stands" and repo.sha == sha
    ran = push(forest, endpoint, tmp_path, "expert=seed")
    assert ran.returncode == 2 and "push.replace=true" in ran.stderr and repo.sha == sha
    assert repo.uploads == uploads
    ran = push(forest, endpoint, tmp_path, "expert=bible", token="wrong")
    assert ran.returncode == 2 and "HF_TOKEN" in ran.stderr and ran.stderr.count("\n") == 1


def test_what_no_repository_can_be(forest, capsys):
    words = {
        (): "one model",
        ("expert=bible", "push.as=delta8"): "whole models",
    }
    for more, wanted in words.items():
        assert main(["push", f"forest={forest.root}", "to=hf://me/law", *more]) == 2
        assert wanted in capsys.readouterr().err
    assert main(["pull", f"forest={forest.root}", "from=hf://me/law"]) == 2
    assert "btm import" in capsys.readouterr().err
    assert main(["push", f"forest={forest.root}", "to=hf://me/law/more", "expert=bible"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err


def test_the_metadata_of_every_readme_are_the_hubs(forest, tmp_path):
    folders = [elm.path for elm in forest.elms()] + [forest.paths.average("uniform").path]
    for folder in folders:
        hub.check_card(ModelFolder(folder).readme)
    wrong = tmp_path / "README.md"
    wrong.write_text("---\nmodel-index: 3\n---\n# x\n")
    with pytest.raises(UserError, match="metadata"):
        hub.check_card(wrong)
