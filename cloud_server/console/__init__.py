"""The operator's console: a web page in front of a server's API, as a client with the user's token.

settings    where it listens, which server it shows
secret      the key of its cookies, in the data folder
sessions    who is logged in: a sealed cookie; tries are limited
upstream    connections to the server, one a token, shared by that token's pages
feeds       what the server tells of devices and results, as it comes
pictures    reconstructions over HTTP, kept for a while
app         the web application: routes, headers, log-in
pages       one page a file, in NiceGUI
view        what pages show, as values: no NiceGUI there
child       `serve --console`: the console as a child process that is kept running
"""
