// The addresses are relative, so that the page also works at /v1/docs and below a proxy's prefix.
SwaggerUIBundle({
  url: new URL("openapi.json", window.location.href).href,
  dom_id: "#page",
  validatorUrl: null, // nothing is sent to another server
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
