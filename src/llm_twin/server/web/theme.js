// A plain script in the head, so that the chosen colours are there before anything is painted.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";
