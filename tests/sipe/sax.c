/*
 * pidgin-sipe says that it has handlers of SAX 2 and gives those of SAX 1. The
 * libxml2 of Debian 12 believes it, and calls none of them. This takes the
 * place of the function that the client calls, and corrects the claim.
 */

#include <libxml/parser.h>

int xmlSAXUserParseMemory(xmlSAXHandlerPtr given, void *data, const char *text, int size)
{
	xmlSAXHandler handler = *given;
	xmlParserCtxtPtr parser;
	int error;
	if (!handler.startElementNs && !handler.endElementNs)
		handler.initialized = 1;
	parser = xmlCreatePushParserCtxt(&handler, data, NULL, 0, NULL);
	if (!parser)
		return -1;
	error = xmlParseChunk(parser, text, size, 1);
	if (!parser->wellFormed && !error)
		error = parser->errNo ? parser->errNo : -1;
	xmlFreeParserCtxt(parser);
	return error;
}
