"""What the console's pages show, as plain values. Nothing here knows NiceGUI or a server."""
