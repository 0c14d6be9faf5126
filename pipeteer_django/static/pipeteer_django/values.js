/* The rows and "no value" boxes of a typed value (pipeteer_django/admin/valueform/). Without it, everything still works:
   an empty row at the end takes a new item, and a box at each row says whether it is kept. */
"use strict";
{
    const own = (list) => [...list.children].filter((child) => child.matches("[data-pv-row]"));

    function button(text, name, label) {
        const element = document.createElement("button");
        element.type = "button";
        element.className = `pv-button ${name}`;
        element.textContent = text;
        element.setAttribute("aria-label", label);
        return element;
    }

    /* Give everything in a row that was copied the number of the new one. */
    function renumber(row, list, from, to) {
        const starts = [[`${list.dataset.pvName}-${from}-`, `${list.dataset.pvName}-${to}-`],
            [`${list.dataset.pvId}-${from}-`, `${list.dataset.pvId}-${to}-`]];
        const moved = (text) => {
            for (const [before, after] of starts) {
                if (text.startsWith(before)) {
                    return after + text.slice(before.length);
                }
            }
            return text;
        };
        for (const element of row.querySelectorAll("*")) {
            for (const name of ["name", "id", "for", "data-pv-name", "data-pv-id"]) {
                if (element.hasAttribute(name)) {
                    element.setAttribute(name, moved(element.getAttribute(name)));
                }
            }
            if (element.hasAttribute("aria-describedby")) {
                const ids = element.getAttribute("aria-describedby").split(" ");
                element.setAttribute("aria-describedby", ids.map(moved).join(" "));
            }
        }
    }

    /* The numbers that people see, which are those of error messages: the places in the list. */
    function count(list, add) {
        const rows = own(list);
        rows.forEach((row, position) => {
            for (const shown of row.querySelectorAll("[data-pv-index]")) {
                if (shown.closest("[data-pv-rows]") === list) {
                    shown.textContent = `[${position}]`;
                }
            }
            const remove = [...row.children].find((child) => child.matches(".pv-remove"));
            if (remove) {
                remove.setAttribute("aria-label", `${list.dataset.pvRemove} ${list.dataset.pvLabel} [${position}]`);
            }
        });
        add.disabled = rows.length >= Number(list.dataset.pvMost);
    }

    function removable(row, list, add) {
        const remove = button(list.dataset.pvRemove, "pv-remove", list.dataset.pvRemove);
        remove.addEventListener("click", () => {
            const next = row.nextElementSibling;
            row.remove();
            count(list, add);
            (next.querySelector(".pv-remove, input, textarea, select") || add).focus();
        });
        row.append(remove);
    }

    function setUpRows(list) {
        const extra = own(list).find((row) => row.hasAttribute("data-pv-extra"));
        const rows = own(list).filter((row) => row !== extra);
        const add = button(`+ ${list.dataset.pvAdd}`, "pv-add", `${list.dataset.pvAdd} ${list.dataset.pvLabel}`);
        const first = rows.length;
        let next = first;
        if (extra) {
            extra.remove();
            extra.removeAttribute("data-pv-extra");
        } else {
            add.hidden = true; // full: what is removed makes no room before the page is loaded again
        }
        list.classList.add("pv-scripted");
        list.append(add);
        rows.forEach((row) => removable(row, list, add));
        count(list, add);
        add.addEventListener("click", () => {
            const row = extra.cloneNode(true);
            renumber(row, list, first, next);
            next += 1;
            row.querySelector("input[type=checkbox][name$='--keep']").checked = true;
            list.insertBefore(row, add);
            removable(row, list, add);
            setUp(row);
            count(list, add);
            calendars();
            const input = row.querySelector(".pv-input input:not([type=hidden]), .pv-input textarea, .pv-input select");
            (input || add).focus();
        });
    }

    /* The admin's calendars know only the inputs that were there when the page was loaded. */
    function calendars() {
        if (typeof window.DateTimeShortcuts !== "undefined") {
            document.querySelectorAll(".datetimeshortcuts").forEach((shortcut) => shortcut.remove());
            window.DateTimeShortcuts.init();
        }
    }

    function setUpPerhaps(element) {
        const body = [...element.children].find((child) => child.matches("[data-pv-body]"));
        const label = [...element.children].find((child) => child.matches(".pv-none"));
        const box = label.querySelector("input");
        const inputs = () => [...body.querySelectorAll("input, textarea, select, button")];
        const follow = () => {
            if (element.dataset.pvPerhaps === "fold") {
                body.hidden = box.checked;
            }
            for (const input of inputs()) {
                input.disabled = box.checked;
            }
            if (!box.checked) { // boxes inside have their own say
                body.querySelectorAll("[data-pv-perhaps]").forEach((inner) => inner.dispatchEvent(new Event("pv-follow")));
            }
        };
        element.addEventListener("pv-follow", (event) => {
            event.stopPropagation();
            follow();
        });
        box.addEventListener("change", follow);
        follow();
    }

    function setUp(root) {
        // Lists first, outermost first: a pattern row must be taken out before what is in it is changed.
        for (const list of root.querySelectorAll("[data-pv-rows]")) {
            if (list.isConnected && !list.classList.contains("pv-scripted")) {
                setUpRows(list);
            }
        }
        root.querySelectorAll("[data-pv-perhaps]").forEach(setUpPerhaps);
    }

    function start() {
        document.querySelectorAll(".pv").forEach(setUp);
    }

    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        start();
    }
}
