// Lists and runs bring themselves up to date; a form is sent once; boxes are ticked together. All of it works without.
(function () {
    "use strict";

    function live() {
        return document.getElementById("live");
    }

    function tell(text, kind) {
        var dot = document.querySelector("[data-live-dot]");
        var label = document.querySelector("[data-live-text]");
        if (dot && label) {
            dot.className = "status-dot status-dot-" + kind;
            label.textContent = text;
        }
    }

    // Why the page must not change under its reader now; empty if it may.
    function busy() {
        var inside = live();
        if (inside.querySelector("input[type=checkbox]:checked")) {
            return "Paused while a box is ticked";
        }
        if (String(window.getSelection()) !== "") {
            return "Paused while text is selected";
        }
        return document.hidden || inside.querySelector("[data-sent]") ? "Paused" : "";
    }

    function refresh() {
        var place = live();
        if (!place || !place.dataset.live) {
            tell("Up to date when it was opened", "idle");
            return;
        }
        if (busy()) {
            tell(busy(), "idle");
            window.setTimeout(refresh, 1000);
            return;
        }
        fetch(window.location.href, {headers: {"X-Lern-Live": "1"}, credentials: "same-origin"})
            .then(function (answer) {
                if (!answer.ok) {
                    throw new Error(answer.status);
                }
                return answer.text();
            })
            .then(function (text) {
                var fresh = new DOMParser().parseFromString(text, "text/html").getElementById("live");
                if (fresh && !busy()) {
                    // What was said when the page was opened stays until it is left.
                    var said = live().querySelector(".lern-said");
                    var header = fresh.querySelector(".detail-page-header");
                    if (said && header) {
                        header.after(said);
                    }
                    live().replaceWith(fresh);
                }
                tell(busy() || "Live", busy() ? "idle" : "live");
            })
            .catch(function () {
                tell("No answer; trying again", "error");
            })
            .finally(function () {
                var next = live();
                window.setTimeout(refresh, Number(next && next.dataset.live) || 5000);
            });
    }

    function boxes() {
        return Array.prototype.slice.call(document.querySelectorAll("td.lern-check input"));
    }

    function counted() {
        var any = boxes().some(function (box) { return box.checked; });
        document.querySelectorAll("[data-needs-selection]").forEach(function (button) {
            button.disabled = !any;
        });
        if (any && live().dataset.live) {
            tell(busy(), "idle");
        }
    }

    document.addEventListener("change", function (event) {
        if (event.target.matches("[data-select-all]")) {
            boxes().forEach(function (box) { box.checked = event.target.checked; });
        }
        counted();
    });

    document.addEventListener("submit", function (event) {
        var button = event.target.querySelector("[data-once]");
        if (!button) {
            return;
        }
        if (button.dataset.sent) {
            event.preventDefault();
            return;
        }
        button.dataset.sent = "1";
        button.classList.add("disabled");
    });

    // A page that comes back from the browser's memory shows its buttons as they were pressed.
    window.addEventListener("pageshow", function (event) {
        if (event.persisted) {
            window.location.reload();
        }
    });

    if (live()) {
        tell("Live", "live");
        window.setTimeout(refresh, Number(live().dataset.live) || 0);
    }
}());
