"""The built-in plugins: one directory a kind, one module a plugin. They import only epp.api."""
