// Tables that are wider than the page can be scrolled by keys too.
const name = () => document.querySelectorAll('.md-typeset__scrollwrap').forEach((each) => {
  each.tabIndex = 0;
  each.setAttribute('role', 'group');
  each.setAttribute('aria-label', 'Table');
});
// The theme wraps tables once the page is read.
new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
