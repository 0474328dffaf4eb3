"""`python -m cloud_server.console`: `featherwire-cloud console`, as `serve --console` starts it."""

from cloud_server.cli import main

if __name__ == "__main__":
    import sys

    sys.argv.insert(1, "console")
    main()
