"""The Kubernetes client against a real API server."""

import json

from kube import wait_until

MAPS = "/api/v1/namespaces/default/configmaps"


def test_a_watch_list_follows_what_changes(plane, watch):
    plane.must("POST", MAPS, plane.config_map("before"))
    w = watch(plane.kubeconfig, MAPS)
    w.wait("synced")
    w.wait("+default/before@")
    plane.must("POST", MAPS, plane.config_map("later"))
    w.wait("+default/later@")
    plane.must("PUT", f"{MAPS}/later", plane.config_map("later", k="v"))
    w.wait("*default/later@")
    plane.must("DELETE", f"{MAPS}/later")
    w.wait("-default/later@")
    plane.must("DELETE", f"{MAPS}/before")
    w.wait("-default/before@")
    report = w.end()
    assert (report["watch_lists"], report["lists"], report["errors"]) == (1, 0, 0)
    assert report["state"] == "watching"


def test_selectors_and_metadata_only(plane, watch):
    one = plane.config_map("labelled", big="x" * 10000)
    one["metadata"]["labels"] = {"herd": "yes"}
    plane.must("POST", MAPS, one)
    plane.must("POST", MAPS, plane.config_map("plain"))
    w = watch(plane.kubeconfig, MAPS, "labelSelector=herd%3Dyes", "metadata")
    w.wait("synced 1")
    plane.must(
        "PATCH",
        f"{MAPS}/labelled",
        {"metadata": {"labels": {"herd": None}}},
        content_type="application/merge-patch+json",
    )
    w.wait("-default/labelled@")
    w.end()
    for name in ("labelled", "plain"):
        plane.must("DELETE", f"{MAPS}/{name}")


def test_calls_and_their_errors(plane, call):
    got = call(plane.kubeconfig, "GET", "/version")
    assert got.returncode == 0
    assert got.stdout.startswith("200 {")
    got = call(plane.kubeconfig, "GET", f"{MAPS}/nothing")
    assert got.returncode == 1
    assert (
        'GET /api/v1/namespaces/default/configmaps/nothing: 404 NotFound: configmaps "nothing" not found' in got.stderr
    )
    nobody = plane.write_kubeconfig("nobody.kubeconfig", {"token": "nobody-token"})
    assert "403 Forbidden" in call(nobody, "GET", MAPS).stderr
    stranger = plane.write_kubeconfig("stranger.kubeconfig", {"token": "secret-but-wrong"})
    got = call(stranger, "GET", MAPS)
    assert "401 Unauthorized" in got.stderr
    assert "secret-but-wrong" not in got.stderr + got.stdout


def test_client_certificates_and_server_names(plane, call):
    user = {"client-certificate": "admin.crt", "client-key": "admin.key"}
    assert call(plane.write_kubeconfig("cert.kubeconfig", user), "GET", MAPS).returncode == 0
    named = plane.write_kubeconfig("named.kubeconfig", user, {"tls-server-name": "kubernetes.default.svc"})
    assert call(named, "GET", MAPS).returncode == 0
    wrong = plane.write_kubeconfig("wrong.kubeconfig", user, {"tls-server-name": "another.example"})
    got = call(wrong, "POST", MAPS, "{}")
    assert got.returncode == 1
    assert "another.example" in got.stderr or "certificate" in got.stderr


def test_impersonation(plane, call):
    path = plane.write_kubeconfig("as.kubeconfig", {"token": "admin-token", "as": "nobody", "as-groups": ["a", "b"]})
    got = call(
        path,
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}',
    )
    assert got.returncode == 0, got.stderr
    assert '"username":"nobody"' in got.stdout
    assert '"groups":["a","b"' in got.stdout


def test_an_exec_plugin_gives_the_token(plane, call, tmp_path):
    plugin = tmp_path / "plugin"
    plugin.write_text("""#!/bin/sh
case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 9 ;; esac
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'"$GIVE"'"}}'
""")
    plugin.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
            "env": [{"name": "GIVE", "value": "admin-token"}],
        }
    }
    got = call(plane.write_kubeconfig("exec.kubeconfig", user), "GET", MAPS)
    assert got.returncode == 0, got.stderr


def test_K18_a_token_file_that_changed_is_read_at_the_401(plane, watch):
    token = plane.dir / "rotating.token"
    token.write_text("wrong\n")
    path = plane.write_kubeconfig("rotating.kubeconfig", {"tokenFile": str(token)})
    w = watch(path, MAPS)
    # the first try fails; a symlink swap later the next one must not use what was read before
    (plane.dir / "new.token").write_text("admin-token\n")
    token.unlink()
    token.symlink_to(plane.dir / "new.token")
    w.wait("synced", timeout=10)
    w.end()


def test_the_api_server_dies_and_comes_back(own_plane, watch):
    own_plane.must("POST", MAPS, own_plane.config_map("stays"))
    own_plane.must("POST", MAPS, own_plane.config_map("goes"))
    w = watch(own_plane.kubeconfig, MAPS)
    w.wait("synced")
    own_plane.parts["kube-apiserver"].kill()
    own_plane.start()
    own_plane.must("DELETE", f"{MAPS}/goes")
    own_plane.must("POST", MAPS, own_plane.config_map("new"))
    w.wait("-default/goes@", timeout=40)
    w.wait("+default/new@", timeout=40)
    report = w.end()
    assert report["lists"] == 0
    assert report["objects"] >= 2
    stays = [line for line in w.lines() if "default/stays" in line]
    assert len(stays) == 1, stays
    assert wait_until(lambda: True)


def test_K22_apply_tells_who_owns_what(plane, call):
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "applied", "namespace": "default"},
        "data": {"a": "1", "b": "http://x/\u00e9"},
    }
    text = json.dumps(body)
    got = call(plane.kubeconfig, "apply", MAPS, "applied", "one", text)
    assert got.returncode == 0, got.stderr
    made = plane.must("GET", f"{MAPS}/applied")
    assert made["data"] == body["data"]
    assert [(f["manager"], f["operation"]) for f in made["metadata"]["managedFields"]] == [("one", "Apply")]

    other = json.dumps({**body, "data": {"a": "2"}})
    got = call(plane.kubeconfig, "apply", MAPS, "applied", "two", other)
    assert got.returncode == 1
    assert 'others own what we would change: .data.a (conflict with "one")' in got.stderr
    assert plane.must("GET", f"{MAPS}/applied")["data"]["a"] == "1"
    assert call(plane.kubeconfig, "apply", MAPS, "applied", "two", other, "force").returncode == 0

    # what the server sent back, managedFields and all, can be applied again; what is left out is taken back
    made = plane.must("GET", f"{MAPS}/applied")
    made["data"] = {"a": "2"}
    for field in ("resourceVersion", "uid", "creationTimestamp"):
        del made["metadata"][field]
    assert call(plane.kubeconfig, "apply", MAPS, "applied", "one", json.dumps(made)).returncode == 0
    assert plane.must("GET", f"{MAPS}/applied")["data"] == {"a": "2"}
    plane.must("DELETE", f"{MAPS}/applied")

    wrong = json.dumps({**body, "dat": {}})
    assert "field not declared" in call(plane.kubeconfig, "apply", MAPS, "applied", "one", wrong).stderr


def test_events_are_made_and_become_a_series(plane, call):
    events = "/apis/events.k8s.io/v1/namespaces/default/events"

    def about(name):
        return [e for e in plane.must("GET", events)["items"] if e["regarding"]["name"] == name]

    assert call(plane.kubeconfig, "event", "default", "spoken-of", "3", "a \u201cnote\u201d").returncode == 0
    (made,) = about("spoken-of")
    assert (made["type"], made["reason"], made["action"]) == ("Warning", "Tested", "Test")
    assert made["note"] == "a \u201cnote\u201d"
    assert made["reportingController"] == "shardherd.io/watch-tool"
    assert made["regarding"]["uid"] == "0a-1b"
    assert made["series"]["count"] == 3
    plane.must("DELETE", f"{events}/{made['metadata']['name']}")

    # refused: told once, and nothing hangs
    nobody = plane.write_kubeconfig("nobody.kubeconfig", {"token": "nobody-token"})
    got = call(nobody, "event", "default", "not-allowed", "1", "note", timeout=10)
    assert got.returncode == 0
    assert "Event was refused" in got.stdout + got.stderr
    assert about("not-allowed") == []
