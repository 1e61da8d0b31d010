"""The online screening service. A request passes, in this order: app, routes, intake, admission, screen, engine."""
