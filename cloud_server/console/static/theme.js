// Dark or light: what was chosen here before, else what the system says. Loaded before anything shows.
(function () {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem("featherwire-theme");
  const apply = () => (root.dataset.theme = chosen() || (system.matches ? "dark" : "light"));
  window.featherwireTheme = () => {
    localStorage.setItem("featherwire-theme", root.dataset.theme === "dark" ? "light" : "dark");
    apply();
  };
  system.addEventListener("change", apply);
  apply();
})();
